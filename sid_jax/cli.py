"""The `sid` command: finds the verb, and turns what goes wrong into an exit code."""

import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from sid_jax import __version__
from sid_jax.errors import InputError, UnwrittenError
from sid_jax.verbs.judging import (
    run_audit,
    run_compare,
    run_compile,
    run_evaluate,
    run_flavours,
    run_inspect,
)
from sid_jax.verbs.making import (
    run_embed,
    run_encode,
    run_import,
    run_prepare,
    run_quickstart,
    run_sweep,
    run_train,
)
from sid_jax.verbs.serving import run_export, run_retrieve

VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "quickstart": run_quickstart,
    "import": run_import,
    "prepare": run_prepare,
    "embed": run_embed,
    "train": run_train,
    "sweep": run_sweep,
    "compile": run_compile,
    "encode": run_encode,
    "inspect": run_inspect,
    "compare": run_compare,
    "flavours": run_flavours,
    "audit": run_audit,
    "evaluate": run_evaluate,
    "retrieve": run_retrieve,
    "export": run_export,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a verb.

    Returns:
      0; 2 for bad input, or a place where nothing can be written; 3 where `sid compare`
      finds that a limit is missed, or `sid compile` that a program does not fit; 130
      when interrupted; 1 otherwise.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name not in VERBS:
        print(f"sid: no verb {name!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    keep_programs()
    try:
        return VERBS[name](rest) or 0
    except SystemExit as stop:  # tyro's: help was asked for, or the words are wrong
        return stop.code if isinstance(stop.code, int) else 2
    except (InputError, UnwrittenError) as error:
        print(f"sid {name}: {error}", file=sys.stderr)
        return _leave(2)
    except KeyboardInterrupt:
        print(f"\nsid {name}: interrupted", file=sys.stderr)
        return _leave(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"sid {name}: {error}", file=sys.stderr)
        return _leave(1)
    except Exception as error:
        return _stop(name, error)


def keep_programs() -> None:
    """Has JAX keep what it compiles, so that a program is compiled once a machine.

    In `sid_jax` under $XDG_CACHE_HOME or ~/.cache, a folder a kind of processor, since
    programs for a CPU are of its instructions. JAX_COMPILATION_CACHE_DIR names another
    folder, JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. Without effect once JAX is
    imported.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(root / "sid_jax" / _processor()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for name, value in settings.items() if "jax" not in sys.modules else ():
        os.environ.setdefault(name, value)


def _processor() -> str:
    """A name for the instructions that this machine's processor has."""
    told = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n")
        words = ("flags", "features")
        told = next((x for x in lines if x.lower().startswith(words)), told)
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _overview() -> str:
    lines = [
        "sid: Semantic IDs for recommendation, in JAX and Flax",
        "",
        "usage: sid VERB ...        (sid VERB --help explains a verb)",
        "",
    ]
    lines += [f"  {name:<12}{verb.__doc__}" for name, verb in VERBS.items()]
    return "\n".join(lines)


def _stop(name: str, error: Exception) -> int:
    """An interrupted run ends as its signal asks, and one that lost another process at
    once; anything else is a fault of ours.
    """
    from sid_jax.flows.train import Interrupted, Lost

    if isinstance(error, Interrupted):
        print(f"\nsid {name}: {error}", file=sys.stderr)
        return 130 if error.signal.name == "SIGINT" else 0
    if isinstance(error, Lost):
        print(f"sid {name}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # at its end, JAX would wait for the one that is lost
    if os.environ.get("SID_TRACEBACK"):
        raise error
    print(
        f"sid {name}: {type(error).__name__}: {error}\n"
        "This is a fault of sid_jax: please report it with the traceback that "
        "SID_TRACEBACK=1 shows.",
        file=sys.stderr,
    )
    return _leave(1)


def _leave(code: int) -> int:
    """The code; where there are other processes, it ends this one with it."""
    if "jax" in sys.modules:
        from sid_jax.flows.train import leave

        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
