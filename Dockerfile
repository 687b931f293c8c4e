# One image for migration, API and worker. As a user without rights; only /data is written to.
#
# TORCH_INDEX: the index of PyTorch's CPU-only (or Intel XPU) builds, as its install page names it
# (https://pytorch.org/get-started/locally/). With it the image is some 4 GB smaller; without it pip takes
# PyTorch's default build for Linux, which runs on the CPU too.
FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PRUNEYARD_HOME=/data

RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin pruneyard \
    && install --directory --owner=pruneyard --group=pruneyard --mode=0700 /data

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY formats formats
COPY inference inference
COPY ingest ingest
COPY migrations migrations
COPY nets nets
COPY pruneyard pruneyard
COPY service service
COPY specs specs
COPY store store
COPY workers workers
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && pip install --constraint constraints.txt '.[postgresql]'

USER pruneyard
VOLUME /data
EXPOSE 8000
CMD ["pruneyard", "serve"]
