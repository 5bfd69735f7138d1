# syntax=docker/dockerfile:1
# One image for every service: `docker run IMAGE up --host 0.0.0.0 --data /data`, or `frontier`, `ingest-worker`, `control-worker`, `api`.
# What it is made from: a Python, and where FoundationDB's client library comes from, of the cluster's version, which no Python package has.
ARG PYTHON=python:3.12.12-slim-bookworm
ARG FOUNDATIONDB=foundationdb/foundationdb:7.3.63

FROM ${PYTHON} AS build
ARG EXTRAS=foundationdb,ui
# The release of the compiler is that of the base.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY matyan ./matyan
# An environment without pip, which the services have no use for; compiled, since a root that is only read keeps no bytecode.
RUN python3 -m venv --without-pip /opt/matyan \
    && python3 -m pip --no-cache-dir --python /opt/matyan/bin/python install --compile ".[${EXTRAS}]"

FROM ${FOUNDATIONDB} AS foundationdb

FROM ${PYTHON}
LABEL org.opencontainers.image.title="matyan" \
      org.opencontainers.image.description="The ingest plane of the Matyan experiment tracker: no metric is ever lost" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=foundationdb /usr/lib/libfdb_c.so /usr/lib/
COPY --from=build /opt/matyan /opt/matyan
RUN useradd --no-create-home --home-dir /data --uid 10001 --user-group matyan \
    && install --directory --owner=10001 --group=10001 --mode=700 /data
# Nothing is written but in /data; a root that is only read needs no folder for temporary files.
ENV PATH=/opt/matyan/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data
# By numbers: an orchestrator that wants no root cannot look a name up.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 53800 53801 9090
# Whether the process works; what it needs may be away. It finds the port by PORT and METRICS_PORT.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 CMD ["matyan", "health", "--live"]
# The process itself is told, with no shell or init before it. It stops accepting, answers what it holds, and ends within
# SHUTDOWN_FLUSH_TIMEOUT; it starts no others that somebody would have to wait for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["matyan"]
CMD ["up", "--host", "0.0.0.0", "--data", "/data"]
