CREATE VIEW IF NOT EXISTS message_db.trends
(
    term         String COMMENT 'Case-folded word.',
    window_start DateTime64(3, 'UTC') COMMENT 'Included.',
    window_end   DateTime64(3, 'UTC') COMMENT 'Excluded.',
    count        UInt32 COMMENT 'Times it was used in the window.',
    senders      UInt32 COMMENT 'Distinct senders; 64 says 64 or more.',
    score        Float64 COMMENT 'How unusual.',
    baseline     Float64 COMMENT 'Mean count in the fifteen windows before.',
    state        String COMMENT 'provisional or closed.',
    approximate  Bool COMMENT 'Rare words were dropped, so that counts may be too small.',
    revision     UInt32 COMMENT 'Grows with each change.',
    accepted_at  DateTime64(3, 'UTC') COMMENT 'When Kafka took this revision.',
    _partition   Int32 COMMENT 'Its partition in trending-words.',
    _offset      Int64 COMMENT 'Its offset.'
)
AS SELECT
    term,
    window_start,
    window_end,
    count,
    senders,
    score,
    baseline,
    toString(rows.state) AS state,
    approximate,
    revision,
    accepted_at,
    _partition,
    _offset
FROM message_db.trend_rows AS rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
COMMENT 'Every word and window once, as it was last known.'
