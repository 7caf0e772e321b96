"""Files to arrays: pictures, sound, film and text out of what people upload. Knows neither torch nor Kafka."""
