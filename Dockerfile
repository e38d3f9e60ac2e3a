# The image holds one static program, certificate authorities and time zones:
# no shell, no package manager, no root.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /mailcrane ./cmd/mailcrane

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /mailcrane /mailcrane
USER nonroot:nonroot
EXPOSE 8025
ENTRYPOINT ["/mailcrane"]
CMD ["serve"]
