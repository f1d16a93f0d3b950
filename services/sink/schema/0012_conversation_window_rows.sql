-- Every revision and copy of a conversation's windows. Read it through the view conversation_windows.
CREATE TABLE IF NOT EXISTS message_db.conversation_window_rows
(
    conversation_id   String COMMENT 'Conversation.',
    window_end        DateTime64(3, 'UTC') COMMENT 'Included.' CODEC(Delta, ZSTD(1)),
    window_start      DateTime64(3, 'UTC') COMMENT 'Not included.' CODEC(Delta, ZSTD(1)),
    message_count     UInt32 COMMENT 'Messages in the window.',
    participant_count UInt32 COMMENT 'Distinct senders in the window.',
    rate              Float64 COMMENT 'Messages per second.',
    peak              UInt32 COMMENT 'Most messages in one step of the window.',
    reply_seconds     Float64 COMMENT 'Mean seconds to the message before by someone else.',
    replies           UInt32 COMMENT 'Replies that mean is over.',
    state             Enum8('provisional' = 1, 'closed' = 2) COMMENT 'Whether it may still change in the ordinary course.',
    revision          UInt32 COMMENT 'The largest stays; of equal ones the newest.',
    _partition        Int32 COMMENT 'Partition in conversation-metrics.',
    _offset           Int64 COMMENT 'Offset there.' CODEC(ZSTD(1)),
    accepted_at       DateTime64(3, 'UTC') COMMENT 'Record time.' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMMDD(window_end)
ORDER BY (conversation_id, window_end, window_start)
SETTINGS min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1
COMMENT 'Revisions of conversation windows. Read the view conversation_windows.'
