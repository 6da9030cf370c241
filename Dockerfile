# The study on a CPU. Build and run:
#
#   docker build -t bsm --build-arg TORCH_INDEX=<address of PyTorch's CPU-only index> .
#   docker run --rm -v "$PWD/reports:/bsm/reports" bsm                         # make reproduce, the profile demo
#   docker run --rm -v "$PWD/reports:/bsm/reports" bsm make reproduce PROFILE=smoke
#   docker run --rm bsm make test
FROM python:3.11-slim-bookworm

RUN apt-get update && apt-get install -y --no-install-recommends make git ffmpeg python3-venv python3-dev gcc \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /bsm
ARG TORCH_INDEX=
# The environment first: it is built again only where its own files have changed.
COPY pyproject.toml Makefile README.md LICENSE ./
COPY data_manifest data_manifest
COPY bsm bsm
COPY notebooks notebooks
RUN make env TORCH_INDEX="$TORCH_INDEX"
COPY . .
CMD ["make", "reproduce"]
