# bertgpt on CUDA:  docker build -f deploy/cuda.Dockerfile -t bertgpt:cuda .
#                   docker run --rm -it --gpus all --ipc host -v "$PWD/data:/data" -v bertgpt-cache:/cache bertgpt:cuda \
#                       torchrun --standalone --nproc-per-node gpu -m bertgpt pretrain /data/shards --out /data/runs/gpt2
# torch brings its own CUDA; the machine needs the driver and the NVIDIA container toolkit. --ipc host: processes of
# torchrun share memory. A compiler is there because torch.compile writes C.
FROM python:3.12-slim

RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev git && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 someone && mkdir /data /cache && chown someone /data /cache

COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md /src/
COPY bertgpt /src/bertgpt
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[pipeline]'

USER someone
ENV HF_HOME=/cache/huggingface XDG_CACHE_HOME=/cache TORCHINDUCTOR_CACHE_DIR=/cache/inductor TRITON_CACHE_DIR=/cache/triton
VOLUME ["/data", "/cache"]
WORKDIR /data
CMD ["bertgpt", "--help"]
