"""`python -m workers.health`: exits 0 if a worker lives in this place (the container it is run in)."""

from __future__ import annotations

import sys
from datetime import timedelta

from specs.settings import load_settings
from store.database import Database
from store.liveness import process_runs, this_place
from store.tables import now
from store.workers import list_workers


def main() -> int:
    settings = load_settings()
    database = Database.of(settings)
    with database.read() as session:
        here = [worker for worker in list_workers(session) if worker.place == this_place()]
    database.close()
    fresh = now() - timedelta(seconds=settings.worker_ttl_seconds)
    beating = [worker for worker in here if worker.beat_at > fresh and process_runs(worker.pid)]
    return 0 if beating else 1


if __name__ == "__main__":
    sys.exit(main())
