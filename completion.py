"""Completion scripts for shells, made from the parsers, so that they never lag behind an option."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

SHELLS = ("bash", "fish", "zsh")


def script(
    shell: str,
    main: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    words: Mapping[str, Sequence[str]],
) -> str:
    """A completion script for ``rewrite``.

    Args:
        shell: One of ``SHELLS``.
        main: The parser of ``rewrite MODEL``.
        commands: Parsers of commands that take options and a model.
        words: Commands that take one of a few words.
    """
    return {"bash": _bash, "fish": _fish, "zsh": _zsh}[shell](main, commands, words)


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [a for a in parser._actions if a.option_strings]


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [o for a in _options(parser) for o in a.option_strings]


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _takes_file(action: argparse.Action) -> bool:
    return _takes_value(action) and action.metavar in ("OUT", "FILE", "NPZ", "DIR", "MODEL", "PATH")


def _help(action: argparse.Action) -> str:
    return "" if action.help in (None, argparse.SUPPRESS) else str(action.help)


def _choices(action: argparse.Action) -> str:
    """The few words that an option takes, or nothing."""
    return " ".join(map(str, action.choices or ()))


def _free(parser: argparse.ArgumentParser) -> list[str]:
    """Options whose value is neither a file nor one of a few words."""
    return [
        o
        for a in _options(parser)
        if _takes_value(a) and not _takes_file(a) and not a.choices
        for o in a.option_strings
    ]


def _bash(
    main: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    words: Mapping[str, Sequence[str]],
) -> str:
    parsers = (main, *commands.values())
    values = {"|".join(a.option_strings): _choices(a) for p in parsers for a in _options(p) if a.choices}
    free = dict.fromkeys(o for p in parsers for o in _free(p))
    cases = [f'        {name}) options="{" ".join(_flags(p))}" ;;' for name, p in commands.items()]
    cases += [
        f'        {name}) COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$word")); return ;;'
        for name, choices in words.items()
    ]
    names = " ".join((*commands, *words))
    return "\n".join(
        [
            "# bash completion of rewrite: source <(rewrite completion bash)",
            "_rewrite() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
            f'    local options="{" ".join(_flags(main))}"',
            "    compopt -o filenames 2>/dev/null",
            f'    case "$before" in {"|".join(free)}) return ;; esac',
            '    case "$before" in',
            *(f'        {o}) COMPREPLY=($(compgen -W "{c}" -- "$word")); return ;;' for o, c in values.items()),
            "    esac",
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac",
            '    if [[ "$word" == -* ]]; then',
            '        COMPREPLY=($(compgen -W "$options" -- "$word"))',
            "        return",
            "    fi",
            '    COMPREPLY=($(compgen -f -- "$word"))',
            f'    if [[ $COMP_CWORD -eq 1 ]]; then COMPREPLY+=($(compgen -W "{names}" -- "$word")); fi',
            "}",
            "complete -F _rewrite rewrite",
        ]
    )


def _zsh(
    main: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    words: Mapping[str, Sequence[str]],
) -> str:
    def arguments(parser: argparse.ArgumentParser) -> list[str]:
        made: list[str] = []
        for action in _options(parser):
            value = f":{_zsh_text(str(action.metavar or action.dest))}:" if _takes_value(action) else ""
            value += "_files" if _takes_file(action) else f"({_choices(action)})" if action.choices else ""
            made.extend(f"        '{o}[{_zsh_text(_help(action))}]{value}'" for o in action.option_strings)
        return made

    cases = []
    for name, parser in commands.items():
        cases += [f"    {name}) shift words; (( CURRENT-- )); _arguments \\"]
        cases += [f"{a} \\" for a in arguments(parser)] + ["        '1:model:_files' ;;"]
    cases += [f"    {name}) compadd {' '.join(choices)} ;;" for name, choices in words.items()]
    names = " ".join((*commands, *words))
    return "\n".join(
        [
            "#compdef rewrite",
            "# zsh completion of rewrite: source <(rewrite completion zsh)",
            "_rewrite() {",
            '    case "$words[2]" in',
            *(f"    {line}" for line in cases),
            f"    *) (( CURRENT == 2 )) && compadd {names}; _arguments \\",
            *(f"{a} \\" for a in arguments(main)),
            "        '1:model:_files' ;;",
            "    esac",
            "}",
            "compdef _rewrite rewrite",
        ]
    )


def _zsh_text(text: str) -> str:
    return "".join(f"\\{c}" if c in "[]:\\" else c for c in text).replace("'", "'\\''")


def _fish(
    main: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    words: Mapping[str, Sequence[str]],
) -> str:
    lines = ["# fish completion of rewrite: rewrite completion fish | source"]
    names = " ".join((*commands, *words))
    lines.append(f"complete -c rewrite -n '__fish_use_subcommand' -a '{names}'")
    elsewhere = f"not __fish_seen_subcommand_from {names}"
    for condition, parser in [
        (elsewhere, main),
        *((f"__fish_seen_subcommand_from {n}", p) for n, p in commands.items()),
    ]:
        for action in _options(parser):
            flags = " ".join(f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}" for o in action.option_strings)
            value = " -r" if _takes_file(action) else (" -x" if _takes_value(action) else "")
            value += f" -a '{_choices(action)}'" if action.choices else ""
            text = (action.help or "").replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"complete -c rewrite -n '{condition}' {flags}{value} -d '{text}'")
    lines += [
        f"complete -c rewrite -n '__fish_seen_subcommand_from {name}' -x -a '{' '.join(choices)}'"
        for name, choices in words.items()
    ]
    return "\n".join(lines)
