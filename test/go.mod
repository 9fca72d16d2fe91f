module github.com/dian-im/dian/test

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/dian-im/dian v0.0.0-00010101000000-000000000000
	github.com/gorilla/websocket v1.5.3
)

require (
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/dian-im/dian => ../
