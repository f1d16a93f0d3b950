-- Most active users
SELECT 
    user_id,
    count(*) as message_count,
    max(created_at) as last_activity
FROM message_db.messages 
WHERE created_at >= now() - 3600
GROUP BY user_id 
ORDER BY message_count DESC;
