# Stands in for python:3.13-slim.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3 python3-venv python-is-python3 ca-certificates && \
    rm -rf /var/lib/apt/lists/*
CMD ["python"]
