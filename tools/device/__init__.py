"""The device check: what an accelerator computes and how fast, in eight minutes.

`check.sh` runs it; each part is a process of its own with a limit of time (`__main__`), so that one
part that hangs or fails costs the others nothing. Deliberately does not know how the machine that
it runs on was found.
"""
