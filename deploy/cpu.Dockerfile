# bertgpt on a CPU:  docker build -f deploy/cpu.Dockerfile -t bertgpt:cpu .
#                    docker run --rm -it -v "$PWD/data:/data" -v bertgpt-cache:/cache bertgpt:cpu bertgpt --help
FROM python:3.12-slim

RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 someone && mkdir /data /cache && chown someone /data /cache

COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md /src/
COPY bertgpt /src/bertgpt
# Where torch's CPU builds are, as its page on installing says: --build-arg TORCH_INDEX=ADDRESS. Without it the image is
# the same but for gigabytes of CUDA.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /src/constraints.txt torch \
    && pip install --no-cache-dir -c /src/constraints.txt '/src[pipeline]'

USER someone
ENV HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache
VOLUME ["/data", "/cache"]
WORKDIR /data
CMD ["bertgpt", "--help"]
