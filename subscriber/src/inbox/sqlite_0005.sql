-- Each type in its turn, and the most urgent first. The columns beside them spare a look at the rows.
CREATE INDEX inbox_turn ON inbox (blob_type, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX inbox_urgent ON inbox (expires_at, due_at, blob_type, received_at)
    WHERE due_at IS NOT NULL AND expires_at IS NOT NULL;
