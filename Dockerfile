# All images of Cask, one target each:
#
#   docker build --target operator -t cask-operator .
#
# targets: operator csi target replica ioc. The programs are compiled in the
# stage "compiled"; with --build-arg PROGRAMS=prebuilt those of `make build` in
# bin/ are taken instead, as hack/images.sh does.
ARG PROGRAMS=compiled

FROM docker.io/library/golang:1.26-bookworm AS compiled
RUN sed -i '/^Components:/s/main$/main contrib/' /etc/apt/sources.list.d/debian.sources \
 && apt-get update -q \
 && apt-get install -y -q --no-install-recommends libzfslinux-dev libzpool5linux libtirpc-dev libjemalloc-dev liblz4-dev zlib1g-dev \
      libssl-dev libblkid-dev libudev-dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION" && mv bin /bin-out

FROM scratch AS prebuilt
COPY bin/ /bin-out/

FROM ${PROGRAMS} AS programs

# Static programs run from nothing, as nobody in particular.
FROM scratch AS operator
COPY --from=programs /bin-out/cask-operator /cask-operator
USER 65532:65532
ENTRYPOINT ["/cask-operator"]

FROM scratch AS target
COPY --from=programs /bin-out/cask-target /cask-target
USER 65532:65532
ENTRYPOINT ["/cask-target"]

# It contains ZFS: see NOTICE.
FROM scratch AS replica
LABEL org.opencontainers.image.licenses="Apache-2.0 AND CDDL-1.0"
COPY --from=programs /bin-out/cask-replica /cask-replica
USER 65532:65532
ENTRYPOINT ["/cask-replica"]

# The IO container is root: it gives extents to their replicas by chown.
FROM scratch AS ioc
COPY --from=programs /bin-out/cask-ioc /cask-ioc
ENTRYPOINT ["/cask-ioc"]

# The CSI plugin runs mkfs, fsck, mount, blkid and losetup on the node. What only
# xfs_scrub needs, more than half of what is installed, is removed.
FROM docker.io/library/debian:bookworm-slim AS csi
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends e2fsprogs xfsprogs util-linux mount \
 && dpkg --purge --force-depends libicu72 $(dpkg-query -W -f '${Package} ' '*python3*') \
 && mkfs.xfs -V && mkfs.ext4 -V && blkid -V && mount -V \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
COPY --from=programs /bin-out/cask-csi /cask-csi
ENTRYPOINT ["/cask-csi"]
