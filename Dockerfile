# What the pods of kuberay/rayjob.yaml run: the pinned build and nothing else. torch's wheels bring CUDA along;
# the driver is the node's.
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# KubeRay's probes ask with wget; Debian keeps one version of it at a time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
WORKDIR /opt/maskfleet
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY model model
COPY pipeline pipeline
COPY jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt .
USER 1000
WORKDIR /home/ray
