# The suite on the CPU, installed and started by the commands of README.md:
#     docker build -t ppl-models .
#     docker run --rm -v "$PWD/runs:/suite/runs" ppl-models                                  the main job
#     docker run --rm -v "$PWD/runs:/suite/runs" ppl-models -m inference.svi --model vae     another one
FROM python:3.11-slim

# TorchInductor compiles training steps with a C++ compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /suite
COPY . .
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir -e .

RUN useradd --create-home user && mkdir -p runs && chown -R user runs
USER user
ENTRYPOINT [".venv/bin/python"]
CMD ["-m", "inference.svi", "--model", "ssvae"]
