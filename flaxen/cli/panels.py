"""The headings under which `--help` lists the options that several commands share."""

MODEL = "Model"
ENGINE = "Engine"
SAMPLING = "Sampling"
DATA = "Data"
