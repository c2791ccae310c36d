# Image for AWS Batch (container-image in profiles/aws-batch): Python, the locked packages, and the
# S3 plugin that each job installs with pip, as a wheel on disk so that no job needs the network.
# The workflow itself is not in the image; Snakemake deploys it with every run.
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /opt/terareg/requirements.lock
RUN pip install --no-cache-dir --requirement /opt/terareg/requirements.lock \
 && pip download --quiet --dest /opt/wheels --constraint /opt/terareg/requirements.lock \
        snakemake-storage-plugin-s3
# jobs unpack the workflow where they start
WORKDIR /work
ENV PIP_NO_INDEX=1 \
    PIP_FIND_LINKS=/opt/wheels \
    OMP_NUM_THREADS=1 \
    MPLBACKEND=Agg
