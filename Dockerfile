# Image for AWS Batch (container-image in profiles/aws-batch): Python, the packages that jobs need,
# each by its hash, and the S3 plugin that each job installs with pip, as a wheel on disk so that no
# job needs the network. The workflow itself is not in the image; Snakemake deploys it with every run.
#
# BASE can be pinned by its digest (python:3.11-slim-bookworm@sha256:...). TORCH stands apart, since
# its build depends on the machines: the one of PyPI runs on CUDA, and is large; for processors alone
# give TORCH_INDEX=https://download.pytorch.org/whl/cpu.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://pypi.org/simple

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY requirements-image.lock /opt/terareg/
RUN pip install --no-cache-dir --require-hashes --requirement /opt/terareg/requirements-image.lock \
 && pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" "${TORCH}" \
 && sed -n "s/ \\\\$//p" /opt/terareg/requirements-image.lock >/opt/terareg/versions.txt \
 && pip download --quiet --dest /opt/wheels --constraint /opt/terareg/versions.txt \
        snakemake-storage-plugin-s3
# jobs unpack the workflow where they start
RUN useradd --create-home --uid 1000 terareg \
 && install --directory --owner=terareg /work
USER terareg
WORKDIR /work
ENV PIP_NO_INDEX=1 \
    PIP_FIND_LINKS=/opt/wheels \
    OMP_NUM_THREADS=1 \
    MPLBACKEND=Agg
