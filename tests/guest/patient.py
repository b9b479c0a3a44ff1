"""Runs a program in Python's development mode on a machine that may be busy: how long a callback takes is no news.

``patient.py FILE ARGS…`` or ``patient.py -m MODULE ARGS…``
"""

import logging
import runpy
import sys


def is_news(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, str) and record.msg.startswith("Executing "))


if __name__ == "__main__":
    logging.getLogger("asyncio").addFilter(is_news)
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
