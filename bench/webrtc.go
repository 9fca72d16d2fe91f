package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pion/webrtc/v4"
)

const (
	rtcMessage = 64 << 10 // as large as is usual
	rtcFull    = 4 << 20  // the sender waits when so much is buffered,
	rtcLow     = 1 << 20  // and goes on below this
	rtcReceive = 8 << 20
)

// rtcPeer is a peer connection for a detached data channel over loopback.
func rtcPeer() (*webrtc.PeerConnection, error) {
	var s webrtc.SettingEngine
	s.DetachDataChannels()
	s.EnableSCTPZeroChecksum(true)
	s.SetSCTPMaxReceiveBufferSize(rtcReceive)
	s.SetIncludeLoopbackCandidate(true)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	s.SetIPFilter(net.IP.IsLoopback)
	return webrtc.NewAPI(webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
}

// describe sets the local description and waits until it has its candidates.
func describe(p *webrtc.PeerConnection, d webrtc.SessionDescription) (*webrtc.SessionDescription, error) {
	complete := webrtc.GatheringCompletePromise(p)
	if err := p.SetLocalDescription(d); err != nil {
		return nil, err
	}
	<-complete
	return p.LocalDescription(), nil
}

// rtcSend offers at ADDRESS, sends size and content, and waits for the last word.
func rtcSend(args []string) error { // ADDRESS FILE
	signal, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer signal.Close() // then the receiver closes its side, too
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	p, err := rtcPeer()
	if err != nil {
		return err
	}
	channel, err := p.CreateDataChannel("bulk", nil)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	channel.OnOpen(func() { done <- rtcSendFile(channel, f) })
	offer, err := p.CreateOffer(nil)
	if err != nil {
		return err
	}
	local, err := describe(p, offer)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(signal).Encode(local); err != nil {
		return err
	}
	var answer webrtc.SessionDescription
	if err := json.NewDecoder(signal).Decode(&answer); err != nil {
		return err
	}
	if err := p.SetRemoteDescription(answer); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	return p.Close()
}

func rtcSendFile(channel *webrtc.DataChannel, f *os.File) error {
	raw, err := channel.Detach()
	if err != nil {
		return err
	}
	low := make(chan struct{}, 1)
	channel.SetBufferedAmountLowThreshold(rtcLow)
	channel.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := raw.Write(binary.BigEndian.AppendUint64(nil, uint64(info.Size()))); err != nil {
		return err
	}
	message := make([]byte, rtcMessage)
	for {
		n, err := f.Read(message)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := raw.Write(message[:n]); err != nil {
			return err
		}
		if channel.BufferedAmount() > rtcFull {
			<-low
		}
	}
	_, err = raw.Read(make([]byte, rtcMessage)) // the receiver has it
	return err
}

// rtcReceiver answers whoever connects and writes what comes to FILE.
func rtcReceiver(args []string) error { // ADDRESS FILE
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		signal, err := ln.Accept()
		if err != nil {
			return err
		}
		if err := rtcReceiveOne(signal, args[1]); err != nil {
			return err
		}
	}
}

func rtcReceiveOne(signal net.Conn, path string) error {
	defer signal.Close()
	p, err := rtcPeer()
	if err != nil {
		return err
	}
	defer p.Close()
	done := make(chan error, 1)
	p.OnDataChannel(func(channel *webrtc.DataChannel) {
		channel.OnOpen(func() { done <- rtcReceiveFile(channel, path) })
	})
	var offer webrtc.SessionDescription
	if err := json.NewDecoder(signal).Decode(&offer); err != nil {
		return err
	}
	if err := p.SetRemoteDescription(offer); err != nil {
		return err
	}
	answer, err := p.CreateAnswer(nil)
	if err != nil {
		return err
	}
	local, err := describe(p, answer)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(signal).Encode(local); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, signal) // until the sender is gone: the last word must get there
	return nil
}

func rtcReceiveFile(channel *webrtc.DataChannel, path string) error {
	raw, err := channel.Detach()
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	message := make([]byte, rtcMessage)
	if _, err := raw.Read(message); err != nil {
		return err
	}
	for left := int64(binary.BigEndian.Uint64(message)); left > 0; {
		n, err := raw.Read(message)
		if err != nil {
			return err
		}
		if _, err := f.Write(message[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = raw.Write([]byte{1})
	return err
}

// startWebRTC starts the receiver.
func (b *bench) startWebRTC() (transfer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.dir, "webrtc.out")
	receiver, err := b.startPart("webrtc-receive", addr, out)
	if err != nil {
		return nil, err
	}
	return func(file string) (took, cpu time.Duration, err error) {
		before := cpuNow(receiver)
		start := time.Now()
		sender, err := b.start(b.self, "webrtc-send", addr, file)
		if err != nil {
			return 0, 0, err
		}
		if err := sender.wait(); err != nil {
			return 0, 0, err
		}
		took = time.Since(start)
		return took, sender.cpu() + cpuNow(receiver) - before, removeLike(out, file)
	}, nil
}
