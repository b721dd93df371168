# The images that hack/devcluster assembles without Docker, for those who have it. Same files at the same places:
#   docker build --target weir --tag weir.dev/weir:dev .        docker build --target engines --tag weir.dev/engines:dev .
FROM python:3.11-slim AS weir
RUN ln -s /usr/local /opt/python
ENV PATH=/opt/weir/bin:/opt/python/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/weir:/opt/packages \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY requirements/runtime.txt pyproject.toml /tmp/
RUN pip install --no-cache-dir --require-hashes --target /opt/packages --requirement /tmp/runtime.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/packages
COPY operator/weir /opt/weir/weir
COPY hack/devcluster/rootfs/weir /opt/weir/bin/weir
RUN version=$(python -c 'import tomllib; print(tomllib.load(open("/tmp/pyproject.toml", "rb"))["project"]["version"])') \
    && mkdir "/opt/weir/weir-$version.dist-info" \
    && printf 'Metadata-Version: 2.1\nName: weir\nVersion: %s\n' "$version" > "/opt/weir/weir-$version.dist-info/METADATA" \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/weir
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/opt/weir/bin/weir"]

FROM weir AS engines
COPY hack/engines /opt/weir/engines
ENTRYPOINT ["/opt/python/bin/python3", "-m"]
