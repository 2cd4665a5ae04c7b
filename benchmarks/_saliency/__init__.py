"""Saliency maps against Captum: equality first, then speed."""
