CREATE VIEW IF NOT EXISTS message_db.user_activity
(
    user_id              String COMMENT 'Sender.',
    window_start         DateTime64(3, 'UTC') COMMENT 'Start of the calendar minute (UTC), included.',
    window_end           DateTime64(3, 'UTC') COMMENT 'Excluded.',
    message_count        UInt32 COMMENT 'Messages the user sent in the minute.',
    active_conversations UInt32 COMMENT 'Distinct conversations the user sent to.',
    last_active          DateTime64(3, 'UTC') COMMENT 'created_at of the last message.',
    state                String COMMENT 'provisional or closed.',
    revision             UInt32 COMMENT 'Grows with each change.',
    accepted_at          DateTime64(3, 'UTC') COMMENT 'When Kafka took this revision.',
    _partition           Int32 COMMENT 'Its partition in user-activity-metrics.',
    _offset              Int64 COMMENT 'Its offset.'
)
AS SELECT
    user_id,
    window_start,
    window_end,
    message_count,
    active_conversations,
    last_active,
    toString(rows.state) AS state,
    revision,
    accepted_at,
    _partition,
    _offset
FROM message_db.user_activity_rows AS rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Every user and minute once, as last known.'
