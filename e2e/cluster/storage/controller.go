package main

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	var capabilities []*csi.ControllerServiceCapability
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	} {
		capabilities = append(capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: capabilities}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

// CreateVolume makes a blank disk, or one of a snapshot.
func (d *driver) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	file, err := d.file("volumes", request.Name)
	if err != nil {
		return nil, err
	}
	wanted := max(request.GetCapacityRange().GetRequiredBytes(), smallest)
	if request.CapacityRange == nil {
		wanted = defaultSize
	}
	content := request.VolumeContentSource
	if !exists(file) {
		if content == nil {
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, wanted)); err != nil {
				return nil, err
			}
		} else if err := d.ofSnapshot(content, file, wanted); err != nil {
			return nil, err
		}
	}
	length, err := size(file)
	if err != nil {
		return nil, err
	}
	volume := &csi.Volume{VolumeId: request.Name, CapacityBytes: length, ContentSource: content}
	return &csi.CreateVolumeResponse{Volume: volume}, nil
}

func (d *driver) ofSnapshot(content *csi.VolumeContentSource, file string, wanted int64) error {
	id := content.GetSnapshot().GetSnapshotId()
	snapshot, err := d.file("snapshots", id)
	if err != nil {
		return err
	}
	length, err := size(snapshot)
	if err != nil {
		return notFound("snapshot", id)
	}
	if wanted < length {
		return status.Errorf(codes.OutOfRange, "snapshot %s has %d bytes, and %d are asked for", id, length, wanted)
	}
	if err := copied(snapshot, file+".new"); err != nil {
		return err
	}
	return errors.Join(os.Truncate(file+".new", wanted), os.Rename(file+".new", file))
}

func (d *driver) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	file, err := d.file("volumes", request.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// CreateSnapshot copies the disk as it is at one moment.
func (d *driver) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	// A class that says so fails, for tests of failures.
	if message := request.Parameters["fail"]; message != "" {
		return nil, status.Error(codes.Internal, message)
	}
	volume, err := d.file("volumes", request.SourceVolumeId)
	if err != nil {
		return nil, err
	}
	snapshot, err := d.file("snapshots", request.Name)
	if err != nil {
		return nil, err
	}
	if !exists(volume) {
		return nil, notFound("volume", request.SourceVolumeId)
	}
	if !exists(snapshot) {
		if err := copiedAtOnce(volume, snapshot); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(snapshot)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId: request.Name, SourceVolumeId: request.SourceVolumeId, SizeBytes: info.Size(),
		CreationTime: timestamppb.New(info.ModTime()), ReadyToUse: true,
	}}, nil
}

func copiedAtOnce(volume, snapshot string) error {
	mount, err := mountOf(volume)
	if err != nil {
		return err
	}
	copying := func() error { return copied(volume, snapshot) }
	if mount != "" {
		return frozen(mount, copying)
	}
	devices, err := loops(volume)
	if err != nil {
		return err
	}
	for _, device := range devices {
		// What was written to the device itself may be in memory only.
		if err := exec.Command("blockdev", "--flushbufs", device).Run(); err != nil {
			return err
		}
	}
	return copying()
}

func (d *driver) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	file, err := d.file("snapshots", request.SnapshotId)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, nil
}
