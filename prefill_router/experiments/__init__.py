"""The questions that a reviewer asks, each answered for any study."""
