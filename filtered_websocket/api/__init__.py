"""The HTTP API of the Centrifuge protocol: for backends in any language, as ``cent`` calls it."""
