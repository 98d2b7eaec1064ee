# The one image of Outrigger: all three programs, static, and nft with the libraries that it needs. Nothing else: no shell,
# no package manager, no root.
#
#   docker build -t outrigger:0.1.0 .

FROM rust:1.95-bookworm AS build
# aws-lc is C, built by CMake.
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The target is named so that build scripts and macros, which can't be static, aren't.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile dist --target "$target" \
      --package outrigger-proxy-app --package outrigger-controller --package outrigger-cli \
 && install -D -t /out/usr/local/bin \
      "target/$target/dist/outrigger-proxy" "target/$target/dist/outrigger-controller" "target/$target/dist/outrigger"

FROM debian:bookworm-slim AS nft
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
# nft, the loader and each library, where nft looks for them.
RUN install -D -t /out/usr/sbin /usr/sbin/nft \
 && ldd /usr/sbin/nft | grep -o '/[^ ]*' | xargs -I LIBRARY cp --dereference --parents LIBRARY /out \
 && chroot /out /usr/sbin/nft --version

FROM scratch
LABEL org.opencontainers.image.title="outrigger" \
      org.opencontainers.image.description="A service mesh in which nothing else dies when a proxy does" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
ENV PATH=/usr/local/bin:/usr/sbin
COPY --from=nft /out /
COPY --from=build /out /
USER 1337:1337
