-- Who leads and who stands by, in words that a person can follow.

ALTER TABLE @schema@.leases ADD process text CHECK (octet_length(process) <= 512);  -- host and number of the holder's process

-- Processes that wait for a lease. They say so every second or two; what they said a while ago means nothing, so it may
-- be lost in a crash.
CREATE UNLOGGED TABLE @schema@.standbys (
    name    text COLLATE "C" NOT NULL,  -- of the lease
    owner   uuid NOT NULL,
    process text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, owner)
);
