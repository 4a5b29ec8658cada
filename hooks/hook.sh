#!/bin/sh
# repoguard-hook 1 @SUM@: holds the lock of this checkout while git works. `repoguard hooks uninstall` puts back what was here.
binary=@BINARY@
[ -f "$binary" ] && [ -x "$binary" ] && exec "$binary" hook @HOOK@ --script "$0" -- "$@"

# It was moved or removed. Programs with windows have a short PATH: look where it is usually installed, too.
gone=$binary
for binary in "$(command -v repoguard)" "${HOME-}/.cargo/bin/repoguard" /opt/homebrew/bin/repoguard \
    /usr/local/bin/repoguard "${HOME-}/.local/bin/repoguard"; do
    case $binary in
    /*) [ -f "$binary" ] && [ -x "$binary" ] && exec "$binary" hook @HOOK@ --script "$0" -- "$@" ;;
    esac
done

# Goes on without the guard, to the hook that was here before.
go_on() {
    chained=${0%.legacy}.repoguard-chained
    case $0 in
    */@HOOK@) [ -x "$chained" ] && exec "$chained" "$@" ;;
    # What runs this one as the hook that it found must not be run by it.
    */@HOOK@.legacy) [ -x "$chained" ] && ! grep -qs hook-impl "$chained" && exec "$chained" "$@" ;;
    esac
    exit 0
}
[ "${REPOGUARD-}" = 0 ] && go_on "$@"

say() {
    printf '%s\n' "$1" >&2
}
# Without what a terminal interprets; and as a word that can be pasted into a shell.
shown() {
    printf '%s' "$1" | LC_ALL=C tr -c '\040-\176' '?'
}
word() {
    shown "$1" | sed "s/'/'\\\\''/g; s/^/'/; s/\$/'/"
}
gone=$(shown "$gone")
case @HOOK@:@IF_MISSING@ in
# After the files have changed refusing would only leave them half changed.
post-checkout:* | reference-transaction:* | *:warn)
    say "repoguard: not guarded: \`$gone\` is gone, and no other repoguard was found"
    say '  hint: install repoguard again, and run `repoguard hooks install`'
    go_on "$@"
    ;;
esac
case $0 in
/*) hook=$0 ;;
*) hook=$PWD/$0 ;;
esac
remove="rm $(word "$hook")"
case $0 in
*/repoguard/hooks/@HOOK@) remove='git config --remove-section hook.repoguard-@HOOK@' ;;
esac
[ -e "$0.repoguard-chained" ] && remove="mv $(word "$hook.repoguard-chained") $(word "$hook")"
say "repoguard: refused by the hook @HOOK@: \`$gone\` is gone, and no other repoguard was found"
say '  hint: install repoguard again, and run `repoguard hooks install`'
say "  hint: or take the guard away: \`$remove\`"
say '  hint: or skip it once: `REPOGUARD=0 git …`'
exit 1
