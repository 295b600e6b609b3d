"""The alternatives that diffusion policy is compared with: same data, same interface, same evaluation."""
