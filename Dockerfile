# The build container: docker build -t image-pipeline . (docs/how-to/container.md)
#
#   docker run --rm [--device /dev/kvm] -v "$PWD":/work -v image-pipeline:/cache \
#     image-pipeline build demo upload
#
# BASE can name a digest (debian:bookworm-slim@sha256:...) where a build must be repeatable.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/image-pipeline

# What changes least comes first: a change of the code rebuilds the last, small layer only.
# INITRD=No: guestfs and the demo use the kernel and its modules; nobody boots this image.
COPY setup/debian-packages.txt setup/debian-packages-container.txt setup/
RUN apt-get update -qq \
    && sed -e 's/#.*//' setup/debian-packages*.txt \
        | DEBIAN_FRONTEND=noninteractive INITRD=No \
            xargs apt-get install -qq -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* \
    && find /var/log -type f -delete \
    && chmod a+r /boot/vmlinuz-* \
    && sed -i -E 's/^(passwd|group|shadow):.*/& extrausers/' /etc/nsswitch.conf \
    && install -d -m 1777 /cache /var/lib/extrausers

# A certificate authority of the building site's own is a secret mount, never part of a layer:
# docker build --secret id=extra-ca,src=CA.pem
ENV IMAGE_PIPELINE_VENV=/opt/venv IMAGE_PIPELINE_NO_PACKAGES=1
COPY invoke ./
COPY setup/requirements.lock setup/
RUN --mount=type=secret,id=extra-ca \
    if [ -s /run/secrets/extra-ca ]; then export PIP_CERT=/run/secrets/extra-ca; fi \
    && PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore ./invoke --set-up \
    && rm -f /opt/venv.log

COPY LICENSE tasks.py ./
COPY setup/container-entry setup/
COPY templates templates/
COPY kickstart kickstart/
COPY pipeline pipeline/
RUN /opt/venv/bin/python -m compileall -q tasks.py pipeline

ENV IMAGE_PIPELINE_CATALOGUE=/work/catalogue
VOLUME /cache
WORKDIR /work
# tini collects orphans, which emulators and daemons leave to process 1; -s: also when it is not 1.
ENTRYPOINT ["tini", "-s", "--", "/opt/image-pipeline/setup/container-entry"]
CMD ["--list"]
