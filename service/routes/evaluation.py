"""How models did on the test images, class by class."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from service.charts import MEDIA_TYPE, SAFE
from service.confusion_picture import picture
from service.evaluation import Evaluation, evaluation
from service.house import TheDatabase
from store import models
from store.database import Database
from store.errors import NotFound

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("/{reference}/evaluation", summary="What a model was right and wrong about")
def get_evaluation(reference: str, database: TheDatabase) -> Evaluation:
    """Of the test images, when it was published: by class, and which class was taken for which."""
    return _found(reference, database)[0]


@router.get(
    "/{reference}/confusion.svg",
    summary="Which classes a model takes for which, as a picture",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {}}}},
)
def get_confusion(reference: str, database: TheDatabase) -> Response:
    """Of many classes those with the most mistakes."""
    return Response(picture(*_found(reference, database)), media_type=MEDIA_TYPE, headers=SAFE)


def _found(reference: str, database: Database) -> tuple[Evaluation, str]:
    with database.read() as session:
        row = models.find_model(session, reference)
        if not row.confusion:
            raise NotFound("evaluation", "model: it was published before there were evaluations")
        cells, name = row.confusion, row.name
    return evaluation(row, cells), name
