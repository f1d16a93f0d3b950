-- Every revision and copy of a user's minutes. Read it through the view user_activity.
CREATE TABLE IF NOT EXISTS message_db.user_activity_rows
(
    user_id              String COMMENT 'Sender.',
    window_start         DateTime64(3, 'UTC') COMMENT 'Start of the calendar minute (UTC), included.' CODEC(Delta, ZSTD(1)),
    window_end           DateTime64(3, 'UTC') COMMENT 'Excluded.' CODEC(Delta, ZSTD(1)),
    message_count        UInt32 COMMENT 'Messages the user sent in the minute.',
    active_conversations UInt32 COMMENT 'Distinct conversations the user sent to.',
    last_active          DateTime64(3, 'UTC') COMMENT 'created_at of the last message.' CODEC(ZSTD(1)),
    state                Enum8('provisional' = 1, 'closed' = 2) COMMENT 'Whether it may still change in the ordinary course.',
    revision             UInt32 COMMENT 'The largest stays; of equal ones the newest.',
    _partition           Int32 COMMENT 'Partition in user-activity-metrics.',
    _offset              Int64 COMMENT 'Offset there.' CODEC(ZSTD(1)),
    accepted_at          DateTime64(3, 'UTC') COMMENT 'Record time.' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMMDD(window_start)
ORDER BY (user_id, window_start, window_end)
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Revisions of user minutes. Read the view user_activity.'
