"""``completion``: prints a script for bash or zsh, made from the parsers of all commands."""

from __future__ import annotations

import shlex

from qemunet.cli import render
from qemunet.cli.catalog import COMMANDS as CATALOG
from qemunet.cli.catalog import GROUPS, words
from qemunet.cli.known import runtime
from qemunet.cli.offers import NAMES, WORD, Kind, names, offer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from qemunet.cli.parser import Commands, Parser


def _arguments(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")
    what = f"print the names of what is there, as a script offers them: {', '.join(NAMES)}"
    parser.add_argument("--names", metavar="KIND", choices=NAMES, help=what)
    parser.add_argument("--of", metavar="VM", default="", help="--names cards: those of this vm")


def _print(args: argparse.Namespace) -> int:
    if args.names is not None:
        for name in names(runtime(), Kind(args.names), args.of):
            render.out(name)
        return 0
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


# ---------------------------------------------------------------- bash

_BASH = """\
# Completion of qemunet's commands for bash: source <(qemunet completion bash)
_qemunet() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]:-}
    local options= valued= choices= files= many= offers= value= vm= word skip= at=0 first=2
    local -a places=()
    COMPREPLY=()
    case $COMP_CWORD:$command in
        1:*) choices=@commands@ ;;
@groups@
    esac
    case $command in
        @grouped@) command="$command ${COMP_WORDS[2]:-}" first=3 ;;
    esac
    [ -n "$choices" ] || case $command in
@cases@
    esac
    for word in "${COMP_WORDS[@]:first:COMP_CWORD-first}"; do
        if [ -n "$skip" ]; then
            skip=
        elif [[ " $valued " == *" $word "* ]]; then
            skip=yes
        elif [[ $word != -* ]]; then
            [ $((at++)) != 0 ] || vm=$word
        fi
    done
    [ -z "$many" ] || [ "$at" -lt ${#places[@]} ] || at=$((${#places[@]} - 1))
    if [ -n "$skip" ]; then
        offers=$value
    elif [[ $current == -* ]]; then
        choices=$options
    else
        offers=${places[at]:-}
    fi
    for word in $offers; do
        case $word in
            =*) choices="$choices ${word#=}" ;;
            files) files=yes ;;
            *) choices="$choices $(qemunet completion bash --names "$word" --of "$vm" 2>/dev/null)" ;;
        esac
    done
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
        "@cases@": "\n".join(
            f"        {shlex.quote(name)}) {_bash_case(name, parser)} ;;" for name, parser in _parsers()
        ),
    }
    text = _BASH
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def _bash_case(command: str, parser: Parser) -> str:
    valued = [option for action in parser.actions() if _takes_value(action) for option in action.option_strings]
    places = _positionals(parser)
    settings = {
        "options": " ".join(parser.options()),
        "valued": " ".join(valued),
        "many": "yes" if places and places[-1].nargs in ("*", "+") else "",
    }
    parts = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if value]
    parts.append(f"places=({' '.join(shlex.quote(' '.join(offer(command, one))) for one in places)})")
    return f"{' '.join(parts)}{_bash_values(command, parser)}"


def _bash_values(command: str, parser: Parser) -> str:
    """Return what sets what may stand for the value of the option before."""
    found = {" | ".join(one.option_strings): offer(command, one) for one in parser.actions() if _takes_value(one)}
    cases = [f"{option}) value={shlex.quote(' '.join(offers))} ;;" for option, offers in found.items() if offers]
    return f"; case $previous in {' '.join(cases)} esac" if cases else ""


# ---------------------------------------------------------------- zsh

_ZSH = """\
#compdef qemunet
# Completion of qemunet's commands for zsh: a file _qemunet in the fpath, or source <(qemunet completion zsh)
_qemunet_offers() {
    local kind
    local -a found
    for kind in $@; do
        case $kind in
            files) _files -g '*.toml(-.)' ;;
            *) found+=(${(f)"$(_call_program names qemunet completion zsh \
                --names $kind --of ${(q)line[1]:-''} 2>/dev/null)"}) ;;
        esac
    done
    compadd -a found
}
_qemunet() {
    local -a commands line
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
            f"        {shlex.quote(name)}) _arguments -s {' '.join(_zsh_specs(name, parser))} ;;"
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


def _zsh_specs(command: str, parser: Parser) -> Iterator[str]:
    for action in parser.actions():
        told = _zsh_text(action.help or "")
        if not action.option_strings:
            yield shlex.quote(_zsh_positional(command, action, told))
            continue
        repeated = "*" if type(action).__name__ == "_AppendAction" else ""
        value = f":{_zsh_text(str(action.metavar))}:{_zsh_values(command, action)}" if _takes_value(action) else ""
        for option in action.option_strings:
            yield shlex.quote(f"{repeated}{option}[{told}]{value}")


def _zsh_positional(command: str, action: argparse.Action, told: str) -> str:
    many = "*" if action.nargs in ("*", "+") else ""
    return f"{many}:{told}:{_zsh_values(command, action)}"


def _zsh_values(command: str, action: argparse.Action) -> str:
    offers = offer(command, action)
    if not offers:
        return " "
    if offers[0].startswith(WORD):
        return f"({' '.join(_zsh_text(one.removeprefix(WORD)) for one in offers)})"
    return f"_qemunet_offers {' '.join(offers)}"


def _zsh_text(text: str) -> str:
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, f"\\{special}")
    return text


COMMANDS: Commands = {"completion": (_arguments, _print)}
