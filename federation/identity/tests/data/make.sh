#!/bin/sh
# Makes the certificates that the tests of bundles read. They are committed: a run of this changes
# them all, and nothing in the tests depends on which keys they hold.
set -eu
root() { # NAME SUBJECT-ALTERNATIVE-NAME BASIC-CONSTRAINTS OPENSSL-KEY-OPTIONS...
    name=$1 san=$2 constraints=$3
    shift 3
    openssl req -x509 -batch -nodes -newkey "$@" -keyout /dev/null -outform DER -out "$name.der" \
        -days 36500 -subj "/O=example.com" -addext "keyUsage=critical,keyCertSign" \
        -addext "basicConstraints=critical,$constraints" -addext "subjectAltName=$san"
}
root rsa1 URI:spiffe://example.com/ CA:TRUE rsa:2048
root rsa2 URI:spiffe://example.com/ CA:TRUE rsa:2048
root p256 URI:spiffe://example.com CA:TRUE ec -pkeyopt ec_paramgen_curve:P-256
root p384 URI:spiffe://example.com CA:TRUE ec -pkeyopt ec_paramgen_curve:P-384
root ed25519 URI:spiffe://example.com CA:TRUE ed25519
root ed448 URI:spiffe://example.com CA:TRUE ed448
root leaf URI:spiffe://example.com/web CA:FALSE ec -pkeyopt ec_paramgen_curve:P-256
