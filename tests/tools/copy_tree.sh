# copy_tree ROOT TO: the tree without what builds in it have left, for scripts that change and build a
# copy. In a git checkout git knows which files; a release has no others. Sourced, never run.
copy_tree()
{
    mkdir "$2"
    if git -C "$1" ls-files -co --exclude-standard >"$2.files" 2>/dev/null; then
        (cd "$1" && while read -r f; do test ! -f "$f" || echo "$f"; done) <"$2.files" |
            tar -C "$1" -cf - -T - | tar -C "$2" -xf -
    else
        tar -C "$1" --exclude './build*' -cf - . | tar -C "$2" -xf -
    fi
    rm -f "$2.files"
}
