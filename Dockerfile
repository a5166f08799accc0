# The image of the pods in kuberay/rayjob.yaml: Maskfleet with pinned versions. torch's wheels bring CUDA; the node
# provides the driver.
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# KubeRay's probes use wget. Debian keeps only one version of it, so it is not pinned.
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
