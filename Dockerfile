# teal for one node of a cluster, or for trying it out: `docker build -t teal:0.1.0 .`
FROM python:3.11.14-slim-bookworm

# torch's own index offers the CPU build; for GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin teal

WORKDIR /opt/teal

# Only what the program needs, by name: no checkout, no home, no token can slip in.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY runtime ./runtime
COPY configs ./configs
COPY jobs ./jobs

# In place, as configs/ and jobs/ lie beside the package. The compiler is for the reader of JSON rows, and gone after it.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && \
    pip install --constraint constraints.txt --extra-index-url ${TORCH_INDEX} --editable ".[example,postgres]" && \
    apt-get purge --yes --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/*

USER teal

ENV TEAL_HOME=/home/teal/.teal

ENTRYPOINT ["teal"]
CMD ["--help"]
