-- What a gate ran on, and which configuration of agents a human knows of.

ALTER TABLE gates ADD COLUMN site TEXT;              -- JSON: where it ran, on which tree, what of it was edited

CREATE TABLE trusted (
    place     TEXT NOT NULL,                         -- a repository's git folder, or a folder outside of repositories
    path      TEXT NOT NULL,                         -- within the working tree; empty: this place was looked at
    hash      TEXT NOT NULL,
    since_us  INTEGER NOT NULL,
    PRIMARY KEY (place, path, hash)
);
