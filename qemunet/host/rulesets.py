"""Reads the rules of a network namespace: those of nft, and those of the old iptables, which nft does not show."""

from __future__ import annotations

import os
import subprocess
import typing

from qemunet.host import nft, sysctls
from qemunet.plan.traversal import UNKNOWN, Chain, Condition, Rule

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qemunet.host.netns import Place

    Json = Mapping[str, typing.Any]

_LEGACY = {
    "ip": ("/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"),
    "ip6": ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"),
}
_BRIDGED = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}
_VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}
_SILENT = frozenset({"counter", "log"})  # what says nothing about where a packet goes
_OPTIONS = {"-i": "iifname", "-o": "oifname", "-p": "l4proto", "--dport": "dport", "-s": "saddr", "-d": "daddr"}


def read(place: Place) -> tuple[Chain, ...]:
    """Return all chains for IP in a place, one after the other. Raises HostLacks, Failed or TimedOut."""
    return place.inside(lambda: (*_nft(), *_legacy()))


def bridged(place: Place) -> frozenset[int]:
    """Return the versions of IP of which the rules see also what a bridge passes from port to port."""
    return place.inside(lambda: frozenset(v for v, key in _BRIDGED.items() if sysctls.read(key) == "1"))


# ---------------------------------------------------------------- nft


def _nft() -> Iterator[Chain]:
    import json

    yield from parse(json.loads(nft.run(("-j", "list", "ruleset"))))


def parse(listing: Json) -> Iterator[Chain]:
    """Yield the chains in what ``nft -j list ruleset`` prints (libnftables-json(5))."""
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    chains: list[Json] = []
    for entry in listing["nftables"]:
        if "chain" in entry:
            chains.append(entry["chain"])
        elif "rule" in entry:
            rule = entry["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).extend(_rules(rule.get("expr", ())))
    for one in chains:
        if one["family"] in ("ip", "ip6", "inet") and one.get("type", "filter") == "filter":
            own = rules.get((one["family"], one["table"], one["name"]), [])
            hook, policy = one.get("hook", ""), one.get("policy", "accept")
            yield Chain(one["family"], one["table"], one["name"], tuple(own), hook, policy)


def _rules(expressions: Sequence[Json]) -> Iterator[Rule]:
    """Yield a rule, or one for each word of a map of verdicts."""
    conditions: list[Condition] = []
    for expression in expressions:
        ((kind, value),) = _items(expression)
        if kind == "vmap":
            for found, verdict in _words(value):
                yield _rule([*conditions, Condition(_key(value["key"]), found)], verdict)
            conditions.append(Condition(UNKNOWN))
        elif kind in ("jump", "goto") or kind in _VERDICTS:
            yield _rule(conditions, {kind: value})
        elif kind == "xt":
            yield from _extension(conditions, value)
        elif kind == "match":
            conditions.append(Condition(_key(value["left"]), _values(value["right"]), value["op"] == "!="))
        elif kind not in _SILENT:
            conditions.append(Condition(UNKNOWN))


def _items(expression: typing.Any) -> tuple[tuple[str, typing.Any], ...]:
    """Return the one name in an expression with what belongs to it; some are but a name."""
    return tuple(expression.items()) if isinstance(expression, dict) else ((str(expression), None),)


def _rule(conditions: Sequence[Condition], verdict: Json) -> Rule:
    ((kind, value),) = verdict.items()
    known = tuple(_guessed(condition, accepted=kind == "accept") for condition in conditions)
    return Rule(known, _VERDICTS.get(kind, kind), value["target"] if kind in ("jump", "goto") else "")


def _extension(conditions: list[Condition], value: Json | None) -> Iterator[Rule]:
    """Note what iptables asks by a module of its own; nft tells no more of it than the name."""
    kind, name = (value or {}).get("type"), (value or {}).get("name")
    if kind == "target" and name == "REJECT":
        yield _rule(conditions, {"reject": None})
    elif kind == "match" and name in ("conntrack", "state"):
        conditions.append(Condition("xt state"))
    elif not (kind == "match" and name == "comment") and not (kind == "target" and name == "LOG"):
        conditions.append(Condition(UNKNOWN))


def _guessed(condition: Condition, *, accepted: bool) -> Condition:
    """Return what a condition on a connection most likely is: accepted are those that there are, dropped others."""
    if condition.key != "xt state":
        return condition
    return Condition("ct state", ("established", "related")) if accepted else Condition(UNKNOWN)


def _words(value: Json) -> Iterator[tuple[tuple[str, ...], Json]]:
    data = value["data"]
    for found, verdict in data["set"] if isinstance(data, dict) and "set" in data else ():
        yield _values(found), verdict


def _key(left: typing.Any) -> str:
    if not isinstance(left, dict):
        return UNKNOWN
    ((kind, value),) = left.items()
    match kind:
        case "meta":
            return str(value["key"])
        case "ct" if value.get("key") in ("state", "status"):
            return f"ct {value['key']}"
        case "payload" if "field" in value:
            return f"{value['protocol']} {value['field']}"
    return UNKNOWN


def _values(right: typing.Any) -> tuple[str, ...]:
    """Return the words of the right side of a comparison; one that is not understood is like nothing else."""
    if isinstance(right, list):
        return tuple(word for one in right for word in _values(one))
    if not isinstance(right, dict):
        return (str(right),)
    if "set" in right:
        return _values(right["set"])
    if "prefix" in right:
        return (f"{right['prefix']['addr']}/{right['prefix']['len']}",)
    if "range" in right:
        return ("-".join(str(end) for end in right["range"]),)
    return ("?",)


# ---------------------------------------------------------------- the old iptables


def _legacy() -> Iterator[Chain]:
    for family, (path, program) in _LEGACY.items():
        if "filter" in _lines(path):
            yield from parse_legacy(family, _save(program))


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def _save(program: str) -> str:
    """Return what the program prints; nothing if there is none, because then nobody can say what is loaded."""
    folders = (*os.get_exec_path(), "/usr/sbin", "/sbin")
    path = next((found for folder in folders if os.access(found := os.path.join(folder, program), os.X_OK)), None)
    if path is None:
        return ""
    done = subprocess.run((path, "-t", "filter"), capture_output=True, text=True, timeout=nft.DEADLINE, check=False)
    return done.stdout if done.returncode == 0 else ""


def parse_legacy(family: str, saved: str) -> list[Chain]:
    """Return the chains in what ``iptables-legacy-save -t filter`` prints."""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in saved.splitlines():
        words = line.split()
        if line.startswith(":"):
            policies[words[0][1:]] = words[1].lower()
        elif line.startswith("-A "):
            rules.setdefault(words[1], []).append(_legacy_rule(family, words[2:]))
    hooks = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
    return [
        Chain(family, "filter", name, tuple(rules.get(name, ())), hooks.get(name, ""), policy, "iptables-legacy")
        for name, policy in ((name, policy.replace("-", "accept")) for name, policy in policies.items())
    ]


def _legacy_rule(family: str, words: Sequence[str]) -> Rule:
    conditions: list[Condition] = []
    verdict, target, negated = "", "", False
    rest = iter(words)
    for word in rest:
        if word == "!":
            negated = True
            continue
        value = next(rest, "")
        if word in ("-j", "-g"):
            verdict = _VERDICTS.get(value.lower(), "jump" if word == "-j" else "goto")
            target = value if verdict in ("jump", "goto") else ""
            break
        conditions += _legacy_condition(family, word, value, negated, conditions)
        negated = False
    return Rule(tuple(_guessed(one, accepted=verdict == "accept") for one in conditions), verdict, target)


def _legacy_condition(
    family: str, word: str, value: str, negated: bool, before: Sequence[Condition]
) -> Iterator[Condition]:
    if word == "-m":
        return
    if word in ("--ctstate", "--state"):
        yield Condition("ct state", tuple(value.lower().split(",")), negated)
    elif word in _OPTIONS:
        key = _OPTIONS[word]
        if key == "dport":
            protocol = next((one.values[0] for one in before if one.key == "l4proto"), "th")
            key = f"{protocol} dport"
        elif key.endswith("addr"):
            key = f"{family} {key}"
        shown = (
            value.replace("+", "*") if key.endswith("ifname") else value.replace(":", "-") if "dport" in key else value
        )
        yield Condition(key, (shown,), negated)
    elif word != "--comment":
        yield Condition(UNKNOWN)
