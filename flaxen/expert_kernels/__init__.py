"""The ops of a mixture of experts, one folder each, as in `kernels`: routing, and the experts."""
