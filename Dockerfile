# The command in a container, on a CPU:
#   docker build -t nst-jax .
#   docker run --rm -v "$PWD:/pictures" nst-jax --content=photo.jpg --styles=painting.jpg
# On a GPU of NVIDIA, with its container toolkit. JAX's packages bring CUDA themselves.
#   docker build --build-arg EXTRAS=plots,cuda13 -t nst-jax .
#   docker run --rm --gpus all -v "$PWD:/pictures" nst-jax --devices
FROM python:3.12-slim
ARG EXTRAS=plots
COPY . /source
RUN pip install --no-cache-dir "/source[${EXTRAS}]" && rm -rf /source
WORKDIR /pictures
ENTRYPOINT ["nst-jax"]
