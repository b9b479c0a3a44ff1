"""The keys of what is typed at a guest's console: its script, and how it is logged in to."""

from __future__ import annotations

from qemunet.config import kinds, secretkinds
from qemunet.config.tables import Key, Table, keyed

SCRIPT = Table(
    "[[vm.NAME.script]]",
    "What is typed at the serial console when the vm has started, step by step.",
    keyed(
        Key("expect", kinds.REGEX, "wait until the guest says what this regular expression finds", "do not wait"),
        Key("fail", kinds.REGEX, "give up at once when it says this instead", "none"),
        Key(
            "send",
            kinds.TYPED,
            "then type this; {vm.name}, {nic.ID.mac}, {nic.ID.ip} and {secret.NAME} are filled in",
            "nothing",
        ),
        Key("enter", kinds.BOOL, "and press Enter", "true"),
        Key("timeout", kinds.SECONDS, "how long it may wait", "60s"),
    ),
)

LOGIN = Table(
    "[vm.NAME.login]",
    "How its console is logged in to, before anything else of its script.",
    keyed(
        Key(
            "recipe",
            kinds.PATH,
            "tiny, debian, alpine or router, or a path to a TOML file of steps, `[[script]]`",
            "none: nobody logs in",
        ),
        Key("user", kinds.TEXT, "what `{login.user}` stands for"),
        Key("password", secretkinds.SECRET, "what `{login.password}` stands for", "none is typed"),
    ),
)
