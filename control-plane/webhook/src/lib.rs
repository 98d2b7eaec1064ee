//! Admission: a pod to the patch that injects its proxies, an object to a verdict. Pure functions and their JSON edge;
//! never listens, never asks an API server.
