# An image of flaxen: docker build -t flaxen .
#   docker run -p 8000:8000 -v flaxen:/data flaxen serve ORG/MODEL --host 0.0.0.0
# Both stages have one base, so that the kernels find the C++ library that they were built with.

FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# With bytecode: the user who runs flaxen can't write it, and would compile at each start.
RUN python -m venv /opt/flaxen \
    && /opt/flaxen/bin/pip install --no-cache-dir /wheels/*.whl

FROM python:3.12-slim
COPY --from=build /opt/flaxen /opt/flaxen
RUN useradd --create-home flaxen \
    && install --directory --owner=flaxen /data
ENV PATH=/opt/flaxen/bin:$PATH \
    FLAXEN_CACHE=/data/compiled \
    FLAXEN_MODELS_DIR=/data/models \
    HF_HOME=/data/huggingface
USER flaxen
# Models, compiled programs, and what is trained if --data-dir or output_dir is in it.
VOLUME /data
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["flaxen"]
CMD ["--help"]
