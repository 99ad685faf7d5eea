package main

import (
	"context"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	rpc := &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}
	capability := &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{capability}}, nil
}

// NodeStageVolume mounts the file system of a volume, and makes one on a blank disk.
func (d *driver) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	file, err := d.file("volumes", request.VolumeId)
	if err != nil {
		return nil, err
	}
	if !exists(file) {
		return nil, notFound("volume", request.VolumeId)
	}
	if isDevice(request.VolumeCapability) || isMounted(request.StagingTargetPath) {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	// It fails when there is nothing that it knows.
	if _, err := run("blkid", "--probe", file); err != nil {
		if _, err := run("mkfs.ext4", "-q", "-F", "-m", "0", file); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(request.StagingTargetPath, 0o750); err != nil {
		return nil, err
	}
	if _, err := run("mount", "-t", "ext4", "-o", "loop", file, request.StagingTargetPath); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func (d *driver) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	// Its loop device goes with the mount.
	return &csi.NodeUnstageVolumeResponse{}, unmounted(request.StagingTargetPath)
}

func (d *driver) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target := request.TargetPath
	if isMounted(target) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	from := request.StagingTargetPath
	if isDevice(request.VolumeCapability) {
		device, err := d.attached(request.VolumeId, request.Readonly)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return nil, err
		}
		from = device
	} else if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	if _, err := run("mount", "--bind", from, target); err != nil {
		return nil, err
	}
	if request.Readonly && !isDevice(request.VolumeCapability) {
		if _, err := run("mount", "-o", "remount,bind,ro", target); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// attached is the loop device of a volume.
func (d *driver) attached(id string, readonly bool) (string, error) {
	file, err := d.file("volumes", id)
	if err != nil {
		return "", err
	}
	present, err := loops(file)
	if err != nil || len(present) > 0 {
		return append(present, "")[0], err
	}
	arguments := []string{"--find", "--show"}
	if readonly {
		arguments = append(arguments, "--read-only")
	}
	return run("losetup", append(arguments, file)...)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unmounted(request.TargetPath); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(request.TargetPath); err != nil {
		return nil, err
	}
	file, err := d.file("volumes", request.VolumeId)
	if err != nil {
		return nil, err
	}
	mount, err := mountOf(file)
	if err != nil || mount != "" {
		return &csi.NodeUnpublishVolumeResponse{}, err
	}
	devices, err := loops(file)
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		if _, err := run("losetup", "--detach", device); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func unmounted(path string) error {
	if !isMounted(path) {
		return nil
	}
	_, err := run("umount", path)
	return err
}
