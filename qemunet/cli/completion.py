"""``completion``: prints a script for bash or zsh, made from the parsers of all commands."""

from __future__ import annotations

import shlex

from qemunet.cli.catalog import COMMANDS as CATALOG
from qemunet.cli.catalog import GROUPS, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from qemunet.cli.parser import Commands, Parser

# What an argument stands for, by its place holder in the help.
_RUNNING = {"VM", "NAME", "FILE|NAME"}
_FILES = {"FILE", "FILE|NAME", "LAB"}


def _arguments(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")


def _print(args: argparse.Namespace) -> int:
    print(bash() if args.shell == "bash" else zsh(), end="")
    return 0


def _parsers() -> Iterator[tuple[str, Parser]]:
    from qemunet.cli.main import command

    for name in CATALOG:
        yield name, command(name)[0]


def _takes_value(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.nargs != 0


def _positionals(parser: Parser) -> list[argparse.Action]:
    return [action for action in parser.actions() if not action.option_strings]


def _is_file(action: argparse.Action) -> bool:
    return action.metavar in _FILES


def _is_running(action: argparse.Action) -> bool:
    """Vms that need not be named are those of the file that is."""
    return action.metavar in _RUNNING and action.nargs != "*"


# ---------------------------------------------------------------- bash

_BASH = """\
# Completion of qemunet's commands for bash: source <(qemunet completion bash)
_qemunet() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]:-}
    local options= valued= choices= files= running=
    COMPREPLY=()
    case $COMP_CWORD:$command in
        1:*) choices=@commands@ ;;
@groups@
    esac
    case $command in
        @grouped@) command="$command ${COMP_WORDS[2]:-}" ;;
    esac
    [ -n "$choices" ] || case $command in
@cases@
    esac
    case " $valued " in
        *" $previous "*) return ;;
    esac
    if [[ $current == -* ]]; then
        choices=$options files= running=
    elif [ -n "$running" ]; then
        choices="$choices $(qemunet ps --quiet 2>/dev/null)"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
    if [ -n "$files" ]; then
        compopt -o filenames
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -X '!*.toml' -- "$current"; compgen -d -- "$current")
    fi
}
complete -F _qemunet qemunet
"""


def bash() -> str:
    """Return the script for bash."""
    parts = {
        "@commands@": shlex.quote(" ".join(words(""))),
        "@groups@": "\n".join(
            f"        2:{group}) choices={shlex.quote(' '.join(words(group)))} ;;" for group in GROUPS
        ),
        "@grouped@": " | ".join(GROUPS),
        "@cases@": "\n".join(f"        {shlex.quote(name)}) {_bash_case(parser)} ;;" for name, parser in _parsers()),
    }
    text = _BASH
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def _bash_case(parser: Parser) -> str:
    valued = [option for action in parser.actions() if _takes_value(action) for option in action.option_strings]
    names = _positionals(parser)
    choices = [str(choice) for action in names for choice in action.choices or ()]
    settings = {
        "options": " ".join(parser.options()),
        "valued": " ".join(valued),
        "choices": " ".join(choices),
        "files": "yes" if any(map(_is_file, names)) else "",
        "running": "yes" if any(map(_is_running, names)) else "",
    }
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items() if value)


# ---------------------------------------------------------------- zsh

_ZSH = """\
#compdef qemunet
# Completion of qemunet's commands for zsh: a file _qemunet in the fpath, or source <(qemunet completion zsh)
_qemunet_running() {
    local -a running=(${(f)"$(_call_program vms qemunet ps --quiet 2>/dev/null)"})
    compadd -a running
}
_qemunet_files_and_running() {
    _files -g '*.toml(-.)'
    _qemunet_running
}
_qemunet() {
    local -a commands
    if ((CURRENT == 2)); then
        commands=(
@commands@
        )
        _describe command commands
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
@groups@
    esac
    case $words[1] in
@cases@
    esac
}
if [[ $funcstack[1] == _qemunet ]]; then _qemunet "$@"; else compdef _qemunet qemunet; fi
"""

_ZSH_GROUP = """\
        {group})
            if ((CURRENT == 2)); then
                commands=({described})
                _describe command commands
                return
            fi
            words=("$words[1] $words[2]" "${{(@)words[3,-1]}}")
            ((CURRENT--))
            ;;"""


def zsh() -> str:
    """Return the script for zsh."""
    single = [_described(name, summary) for name, (_, summary) in CATALOG.items() if " " not in name]
    single += [_described(group, what) for group, what in GROUPS.items()]
    parts = {
        "@commands@": "\n".join(f"            {one}" for one in single),
        "@groups@": "\n".join(_zsh_group(group) for group in GROUPS),
        "@cases@": "\n".join(
            f"        {shlex.quote(name)}) _arguments -s {' '.join(_zsh_specs(parser))} ;;"
            for name, parser in _parsers()
        ),
    }
    text = _ZSH
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def _zsh_group(group: str) -> str:
    described = " ".join(_described(word, CATALOG[f"{group} {word}"][1]) for word in words(group))
    return _ZSH_GROUP.format(group=group, described=described)


def _described(name: str, summary: str) -> str:
    return shlex.quote(f"{name}:{summary}")


def _zsh_specs(parser: Parser) -> Iterator[str]:
    for action in parser.actions():
        told = _zsh_text(action.help or "")
        if not action.option_strings:
            yield shlex.quote(_zsh_positional(action, told))
            continue
        repeated = "*" if type(action).__name__ == "_AppendAction" else ""
        value = f":{_zsh_text(str(action.metavar))}: " if _takes_value(action) else ""
        for option in action.option_strings:
            yield shlex.quote(f"{repeated}{option}[{told}]{value}")


def _zsh_positional(action: argparse.Action, told: str) -> str:
    many = "*" if action.nargs in ("*", "+") else ""
    return f"{many}:{told}:{_zsh_values(action)}"


def _zsh_values(action: argparse.Action) -> str:
    if action.choices:
        return f"({' '.join(map(str, action.choices))})"
    if _is_file(action):
        return "_qemunet_files_and_running" if _is_running(action) else "_files -g '*.toml(-.)'"
    return "_qemunet_running" if _is_running(action) else " "


def _zsh_text(text: str) -> str:
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, f"\\{special}")
    return text


COMMANDS: Commands = {"completion": (_arguments, _print)}
