# syntax=docker/dockerfile:1
# Where FoundationDB's client library comes from, which no Python package has: of the cluster's version.
ARG FOUNDATIONDB=foundationdb/foundationdb:7.3.63
# One image for every service: `docker run IMAGE up --host 0.0.0.0 --data /data`, or `frontier`, `ingest-worker`, `control-worker`, `api`.
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY matyan ./matyan
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM ${FOUNDATIONDB} AS foundationdb

FROM python:3.12-slim
COPY --from=foundationdb /usr/lib/libfdb_c.so /usr/lib/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels matyan-trio \
    && useradd --create-home --uid 10001 matyan \
    && install --directory --owner=matyan /data
USER matyan
WORKDIR /home/matyan
VOLUME /data
EXPOSE 53801 9090
# A service stops accepting, answers what it holds and exits within SHUTDOWN_FLUSH_TIMEOUT of a SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["matyan"]
CMD ["up", "--host", "0.0.0.0", "--data", "/data"]
