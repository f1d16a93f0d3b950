-- Every revision and copy of a word's use in a window. Read it through the view trends.
CREATE TABLE IF NOT EXISTS message_db.trend_rows
(
    window_start DateTime64(3, 'UTC') COMMENT 'Included.',
    window_end   DateTime64(3, 'UTC') COMMENT 'Excluded.',
    term         String COMMENT 'Case-folded word.',
    count        UInt32 COMMENT 'Times it was used in the window.',
    senders      UInt32 COMMENT 'Distinct senders; 64 says 64 or more.',
    score        Float64 COMMENT 'How unusual.',
    baseline     Float64 COMMENT 'Mean count in the fifteen windows before.',
    state        Enum8('provisional' = 1, 'closed' = 2) COMMENT 'Whether it may still change in the ordinary course.',
    approximate  Bool COMMENT 'Rare words were dropped.',
    revision     UInt32 COMMENT 'The largest stays; of equal ones the newest.',
    _partition   Int32 COMMENT 'Partition in trending-words.',
    _offset      Int64 COMMENT 'Offset there.',
    accepted_at  DateTime64(3, 'UTC') COMMENT 'Record time.'
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMMDD(window_start)
ORDER BY (window_start, window_end, term)
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Revisions of trends. Read the view trends.'
