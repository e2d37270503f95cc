"""Programs beside the package: checks of the source, and compilers for devices not at hand."""
