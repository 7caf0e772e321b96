"""Files to arrays: images, audio, video and text out of what people upload. Knows neither torch nor Kafka."""
