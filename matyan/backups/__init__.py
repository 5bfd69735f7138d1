"""Backups of a data folder, and folders made of them again: files and their checksums.

    FOLDER/                        any folder; several backups of one store stand in it
        lock                       held by whoever makes or removes one
        20261127T201503Z/          a backup, by its time in UTC
            data/                  what a data folder holds, file by file
            manifest.json          what must be in data/, written last (`manifest`)
        20261128T201500Z.part/     one that is not finished, or not quite removed: the next backup removes it

A file that has not changed since the backup before is a link to that one's. No socket and no terminal here: how one gets at a moment of
the folder, and who is told of progress, is passed in.
"""
